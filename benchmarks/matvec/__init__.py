"""The parts of the benchmark of products: what is computed (workloads), by whom (cells), how it is measured."""
