"""Where MLflow calls the gate: the registry store behind `--registry-store-uri gated:<database uri>`."""
