"""What workers are given to evaluate, and what they return."""

from es_ray.engines.base import BASE, CENTRE
from es_ray.evaluation.outcomes import Outcomes
from es_ray.evaluation.shard_outcomes import Answered, Sample, ShardOutcome
from es_ray.evaluation.shards import Candidate, Shard

__all__ = ["BASE", "CENTRE", "Answered", "Candidate", "Outcomes", "Sample", "Shard", "ShardOutcome"]
