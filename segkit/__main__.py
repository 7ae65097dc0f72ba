"""``python -m segkit``."""

import sys

from segkit.cli.main import main

sys.exit(main())
