"""Linear systems, functions of a matrix times a vector, low-rank approximations and preconditioners."""
