"""Limits, paired differences, several tests at once, and what a sample size can prove. Pure functions of counts.

`rates` one rate against a ceiling · `paired` adapted form against base on the same probes · `multiplicity` Holm ·
`planning` sizes. Formulas and numbers to test against: METHOD.md sections 5 and 8.
"""
