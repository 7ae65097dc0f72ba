"""Everything that can be wrong with a data set, and the checks that find it."""
