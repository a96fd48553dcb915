"""Limits, paired differences, several tests at once, and what a sample size can prove. Pure functions of counts.

Read by the gate: `rates` one rate against a ceiling · `paired` adapted form against base on the same probes ·
`clusters` probes that belong together · `multiplicity` Holm, mixed signs · `planning` sizes.
Read by workers, studies and calibration: `scores` graded scores · `agreement` kappa and disagreement · `admission` may
a grader vote · `correction` grader error, PPI++ · `sequential` stopping early, for
fail only · `zero_tolerance` lists on which none is tolerated.
Formulas and numbers to test against: METHOD.md sections 5 and 8. Error rates achieved: tests/benchmarks/COVERAGE.md.
"""
