"""Eigenpairs: Lanczos with thick restarts, in blocks, LOBPCG, power iteration; norms and condition from them."""
