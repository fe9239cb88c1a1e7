"""Quality and cost of schedules on samples."""

from vispco.evaluation.evaluator import Evaluator, Quality, TeacherBatch
from vispco.evaluation.generation import generate_answers
from vispco.evaluation.ledger import Ledger
from vispco.evaluation.measure import Candidate, Provenance, measure
from vispco.evaluation.prompts import prepare, prompt_fingerprint, prompt_text

__all__ = [
    "Candidate",
    "Evaluator",
    "Ledger",
    "Provenance",
    "Quality",
    "TeacherBatch",
    "generate_answers",
    "measure",
    "prepare",
    "prompt_fingerprint",
    "prompt_text",
]
