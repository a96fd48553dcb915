"""Train the graders that registry-gate ships, from labelled data by path and sha256 and from pairs built in code.

`python -m evaluators.graders.training refusal|harm --out DIR` is the one command. It needs the packages of the extras
`worker` and `train`; nothing that grades imports it.
"""
