"""The families of voices that voicekiln converts, and the choice among them.

Exactly one family may claim a file. No scores and no order: two claims are as much a refusal as none, and both say
what each family missed or found.
"""

from __future__ import annotations

from voicekiln.errors import OtherFamily, UnknownModel
from voicekiln.families import foreign
from voicekiln.families.base import Claim, Family, NotMine, Outline
from voicekiln.families.coqui import CoquiVits
from voicekiln.families.diffusion import ShallowDiffusion
from voicekiln.families.feature_index import FeatureIndex
from voicekiln.families.kmeans import KMeans
from voicekiln.families.nsf_hifigan import NsfHifiGan
from voicekiln.families.rvc import Rvc
from voicekiln.families.so_vits_svc import SoVitsSvc
from voicekiln.families.speaker_encoder import SpeakerEncoder

FAMILIES: tuple[Family, ...] = (
    Rvc(),
    SoVitsSvc(),
    CoquiVits(),
    ShallowDiffusion(),
    NsfHifiGan(),
    SpeakerEncoder(),
    KMeans(),
    FeatureIndex(),
)
"""All families; a new one is a module here and its name in this line."""


def choose(outline: Outline, families: tuple[Family, ...] | None = None) -> tuple[Family, Claim]:
    """Return the one family that claims the file, with its claim.

    Args:
        outline: the file.
        families: those to ask; all of them by default.

    Raises:
        Refusal: if a family or `foreign` knows why it cannot be converted; `UnknownModel` if no family claims it
            and nothing is known of it, or more than one does.
    """
    asked = FAMILIES if families is None else families
    titles = "; ".join(family.title for family in asked)
    foreign.refuse_parts(outline)
    if (what := foreign.sight(outline)) is not None:
        raise OtherFamily(what=what, families=titles)
    answers = [(family, family.recognise(outline)) for family in asked]
    claims = [(family, answer) for family, answer in answers if isinstance(answer, Claim)]
    if len(claims) == 1:
        return claims[0]
    missed = [f"not a voice of {f.title}: {answer.reason}" for f, answer in answers if isinstance(answer, NotMine)]
    claimed = [f"also a voice of {family.title}" for family, _ in claims]
    raise UnknownModel(reasons="; ".join(missed + claimed), families=titles)
