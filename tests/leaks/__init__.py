"""`python -m tests.leaks`: makes, uses and frees objects of each class thousands of times, and measures what stays."""
