"""One layer: the headers of its tar, the walk over them, and the index that they come to."""
