"""Draw the rows of `overture demo`: customers' messages to a bank, by the team that would answer them.

python bench/demo_rows.py --source DIR

DIR is a copy of https://github.com/PolyAI-LDN/task-specific-datasets, whose `banking_data` is BANKING77.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from random import Random

from overture.core.files import write_atomic

DEMO = Path(__file__).parents[1] / "src/overture/data/demo"
INTENTS = {
    "cards": (
        "card_about_to_expire card_arrival card_delivery_estimate getting_spare_card lost_or_stolen_card "
        "order_physical_card"
    ),
    "cash": (
        "atm_support cash_withdrawal_charge cash_withdrawal_not_recognised declined_cash_withdrawal "
        "pending_cash_withdrawal wrong_amount_of_cash_received"
    ),
    "exchange": (
        "card_payment_wrong_exchange_rate exchange_charge exchange_rate exchange_via_app fiat_currency_support "
        "wrong_exchange_rate_for_cash_withdrawal"
    ),
    "identity": "unable_to_verify_identity verify_my_identity verify_source_of_funds why_verify_identity",
    "refunds": "Refund_not_showing_up request_refund reverted_card_payment?",
    "transfers": (
        "cancel_transfer declined_transfer failed_transfer pending_transfer transfer_fee_charged "
        "transfer_not_received_by_recipient transfer_timing"
    ),
}
"""Team -> intents of BANKING77; those that two teams could answer are left out."""

TEAM_OF = {intent: team for team, intents in INTENTS.items() for intent in intents.split()}
LEFT_OUT = ("idiot",)
SHORTEST, LONGEST = 20, 110


def drawn(path: Path, counts: dict[str, int], random: Random, used: set[str]) -> dict[str, list[dict[str, str]]]:
    """So many messages of each team for each split, none of them twice."""
    texts: dict[str, set[str]] = defaultdict(set)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            text = " ".join(row["text"].split())
            is_fit = SHORTEST <= len(text) <= LONGEST and not any(word in text.lower() for word in LEFT_OUT)
            if row["category"] in TEAM_OF and is_fit and text.lower() not in used:
                texts[TEAM_OF[row["category"]]].add(text)
    shuffled = {team: random.sample(sorted(texts[team]), len(texts[team])) for team in INTENTS}
    rows_of = {}
    for name, count in counts.items():
        rows = [{"text": shuffled[team].pop(), "label": team} for team in INTENTS for _ in range(count)]
        used |= {row["text"].lower() for row in rows}
        rows_of[name] = random.sample(rows, len(rows))
    return rows_of


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True, help="copy of PolyAI-LDN/task-specific-datasets")
    folder, random, used = parser.parse_args().source / "banking_data", Random(0), set[str]()
    rows_of = drawn(folder / "train.csv", {"train": 50, "validation": 20}, random, used)
    rows_of |= drawn(folder / "test.csv", {"test": 50}, random, used)
    for name, rows in rows_of.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        write_atomic(DEMO / f"{name}.jsonl", "".join(lines))


if __name__ == "__main__":
    main()
