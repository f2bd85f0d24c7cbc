"""Numerics: tensors and operators in, tensors out. Knows nothing of files, modules or reports.

Everything is computed in float64, takes leading batch dimensions and stays on the device of its input.
"""
