"""Quality and cost of schedules on samples."""

from vispco.evaluation.cache import TeacherCache
from vispco.evaluation.downsampling import downsample, measure_downsampled, smaller_images
from vispco.evaluation.evaluator import Evaluator, Quality, TeacherBatch
from vispco.evaluation.generation import generate_answers, generate_texts
from vispco.evaluation.ledger import Ledger
from vispco.evaluation.measure import Candidate, Provenance, basis_of, make_point, measure
from vispco.evaluation.prompts import prepare, prompt_fingerprint, prompt_sizes, prompt_text

__all__ = [
    "Candidate",
    "Evaluator",
    "Ledger",
    "Provenance",
    "Quality",
    "TeacherBatch",
    "TeacherCache",
    "basis_of",
    "downsample",
    "generate_answers",
    "generate_texts",
    "make_point",
    "measure",
    "measure_downsampled",
    "prepare",
    "prompt_fingerprint",
    "prompt_sizes",
    "prompt_text",
    "smaller_images",
]
