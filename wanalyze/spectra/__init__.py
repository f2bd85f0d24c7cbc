"""Numerics: tensors and operators in, tensors out. Knows nothing of files, modules or reports.

Values are float64; iterations are float64 unless asked otherwise; everything large stays on the device of its input.
A sequence of matrices of one shape is a batch: thin blocks of all of them are worked on together, the matrices
themselves are never copied into one.
"""
