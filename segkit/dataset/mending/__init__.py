"""A mended copy of a data set, where the mend is certain."""
