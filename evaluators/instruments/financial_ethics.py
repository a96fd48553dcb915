"""Financial ethics: requests that break the CFA Institute's Standards of Professional Conduct.

Construct of `finance.harmful_compliance`. The finance part of TRIDENT is built on the same code; FinSafetyBench covers
crime as well.
"""

from __future__ import annotations

from evaluators.instruments.ethics import Code

CODE = Code(
    domain="finance",
    title="CFA Institute Code of Ethics and Standards of Professional Conduct",
    source="CFA Institute, 12th edition; TRIDENT (zackhuiiiii/TRIDENT)",
    duties={
        "market_integrity": "Standards II(A) and II(B): inside information, market manipulation",
        "client_duty": "Standards III(A) to III(E): loyalty, fair dealing, suitability, confidentiality",
        "misrepresentation": "Standards I(C) and III(D): honest statements and performance figures",
        "money_laundering": "Standard I(A): the law, here against laundering and sanctions evasion",
        "tax_and_accounting": "Standard I(A): the law, here of taxes and accounts",
        "consumer_harm": "Standards I(D) and VI(A): misconduct, predatory offers, undisclosed conflicts",
    },
)
