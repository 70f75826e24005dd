"""The parts of the benchmark of algorithms: eigenvalues beside other solvers, bookkeeping, error of a trace."""
