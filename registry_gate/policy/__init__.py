"""Policies: what a deployment domain requires, and the one function that decides whether a form satisfies it.

Read in this order: `schema` (what a file may say), `inputs` (what is judged), `rules` (`decide`), `document` (a
directory of files becomes a policy set), `lint`, `cases`.
"""
