"""The index of the 194 papers, what Reverie has of each, and the claims that put them to the test."""

from reverie.papers.cite import bibliography, cite
from reverie.papers.claim import BUDGETS, KINDS, Budget, Case, Claim
from reverie.papers.claims import claim_of, claimed
from reverie.papers.index import ADDS, ROOMS, Paper, paper, papers
from reverie.papers.records import Record, read, write
from reverie.papers.sources import Place, closure, implementations
from reverie.papers.state import STATES, Status, find, status
from reverie.papers.trials import trial
from reverie.papers.verdict import VERDICTS, ControlError, Decision, Outcome, decide, outcome

__all__ = [
    "ADDS", "BUDGETS", "KINDS", "ROOMS", "STATES", "VERDICTS",
    "Budget", "Case", "Claim", "ControlError", "Decision", "Outcome", "Paper", "Place", "Record", "Status",
    "bibliography", "cite", "claim_of", "claimed", "closure", "decide", "find", "implementations", "outcome", "paper", "papers", "read",
    "status", "trial", "write",
]  # fmt: skip
