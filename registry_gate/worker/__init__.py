"""The worker: takes assessment requests from the ledger, measures, signs and files the evidence.

`forms` fetches what is to be measured, `assess` measures and signs it, `service` does so durably for every request.
"""
