"""Pages and reports: what was decided and why, for people. Never enforcement, never a probe or an answer."""
