"""What depends on all eigenvalues at once: densities, and sums tr f(A) such as the log-determinant."""
