"""Other people's layouts to a data set folder: one module a layout, all give a ``Conversion``."""
