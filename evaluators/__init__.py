"""What measures: batteries, instruments, engines and graders. Only the worker imports it.

Imports from `registry_gate` only the values (`errors`, `form`, `assessment`) and `statistics`.
"""
