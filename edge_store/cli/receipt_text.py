"""A receipt for people."""

from edge_store.receipt import Receipt, ReplicaState, Replicated

__all__ = ["described"]


def described(receipt: Receipt) -> list[tuple[str, str]]:
    """The lines of a receipt for a person: name and text."""
    lines = [("receipt", receipt.id), ("state", receipt.message)]
    if receipt.gone is not None and receipt.gone.message:
        lines.append(("error", receipt.gone.message))
    committed = receipt.committed
    if committed is not None:
        lines += [
            ("committed", f"{committed.at}, commit {committed.commit_id}, seq {committed.seq}"),
            ("digest", committed.digest),
        ]
    replicated = receipt.replicated
    if replicated is not None:
        lines.append(("replicated", _replicated_text(replicated)))
        proven = receipt.proven
        text = f"{proven.at} by restore drill {proven.drill_id}" if proven else "not yet"
        lines.append(("proven", text))
    return lines


def _replicated_text(replicated: Replicated) -> str:
    match replicated.state:
        case ReplicaState.REPLICATED:
            return f"by {replicated.at} with TXID {replicated.txid}"
        case ReplicaState.NOT_YET:
            return f"not yet, lag {replicated.lag_s:.1f} s"
        case ReplicaState.OFF:
            return "replication is off"
        case ReplicaState.NOT_KNOWN:
            return f"not known: {replicated.reason}"
