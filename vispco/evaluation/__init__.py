"""Quality and cost of schedules on samples."""

from vispco.evaluation.assessment import Assessed, Assessment
from vispco.evaluation.cache import TeacherCache
from vispco.evaluation.counting import token_counter
from vispco.evaluation.downsampling import downsample, measure_downsampled, smaller_images
from vispco.evaluation.evaluator import Evaluator
from vispco.evaluation.generation import generate_answers, generate_texts
from vispco.evaluation.ledger import Ledger
from vispco.evaluation.measure import Candidate, Provenance, basis_of, make_point, measure
from vispco.evaluation.official import ANSWER_TOKENS, Official, check_answer_tokens
from vispco.evaluation.prompts import encode_samples, prepare, prompt_fingerprint, prompt_sizes, prompt_text
from vispco.evaluation.teacher import Quality, TeacherBatch
from vispco.evaluation.tokens import VisualSize, kept_share, visual_sizes

__all__ = [
    "ANSWER_TOKENS",
    "Assessed",
    "Assessment",
    "Candidate",
    "Evaluator",
    "Ledger",
    "Official",
    "Provenance",
    "Quality",
    "TeacherBatch",
    "TeacherCache",
    "VisualSize",
    "basis_of",
    "check_answer_tokens",
    "downsample",
    "encode_samples",
    "generate_answers",
    "generate_texts",
    "kept_share",
    "make_point",
    "measure",
    "measure_downsampled",
    "prepare",
    "prompt_fingerprint",
    "prompt_sizes",
    "prompt_text",
    "smaller_images",
    "token_counter",
    "visual_sizes",
]
