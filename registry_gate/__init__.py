"""The admission controller for models: decides whether a promotion in an MLflow registry may happen.

Read it in this order: `promotion`, `form`, `assessment`, `decision` (the values), `policy.rules.decide` (the rules),
`gate.Gate.review` (the flow), `mlflow_plugin.store` (where MLflow calls it).
"""

__version__ = "0.1.0"
