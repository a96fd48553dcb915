-- What a worker may do in MLflow's database: the ledger, and nothing that an alias or a stage is kept in.
-- Run as the owner of the tables, after the gate's first start and after every upgrade. Repeating it changes nothing.
GRANT USAGE ON SCHEMA public TO worker;
GRANT SELECT ON registry_gate_alembic_version, registry_gate_decision TO worker;
GRANT SELECT, INSERT ON registry_gate_evidence, registry_gate_audit TO worker;
GRANT SELECT, UPDATE ON registry_gate_audit_head TO worker;
GRANT SELECT, INSERT, UPDATE ON registry_gate_request TO worker;
GRANT SELECT, INSERT, DELETE ON registry_gate_worker TO worker;
