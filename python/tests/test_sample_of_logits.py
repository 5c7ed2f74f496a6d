"""sample_of_logits and cut_mask_of_logits against CONTRACT.md 4 written again, in test_sample.py."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from expected import same_bits  # noqa: E402
from test_sample import CUTS, RESULTS, cut, draw, f32, mp, same_results  # noqa: E402

import isologit  # noqa: E402

ROWS, VOCAB = 8, 40
SEED, SEQUENCES, POSITIONS = 2**63 + 12345, torch.arange(ROWS) + 2**33, torch.arange(ROWS) * 7
KEYS = {"seed": SEED, "sequence_id": SEQUENCES, "position": POSITIONS}


def rows(dtype=torch.float32):
    logits = 3 * torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(1))
    return logits.masked_fill(torch.arange(VOCAB) % 7 == 3, -torch.inf).to(dtype)


def support(z):
    return [v for v, logit in enumerate(z) if logit > -torch.inf]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_draws_are_those_of_the_contract(cuts, dtype):
    logits = rows(dtype)
    drawn = isologit.sample_of_logits(logits, **KEYS, **cuts)
    mask = isologit.cut_mask_of_logits(logits, **cuts)
    exact_cuts = {name: f32(value) if isinstance(value, float) else value for name, value in cuts.items()}
    for i, z in enumerate(logits.tolist()):
        right = draw(z, support(z), SEED, int(SEQUENCES[i]), int(POSITIONS[i]), **exact_cuts)
        assert drawn.ids[i] == right[0]
        for name, value in zip(RESULTS[1:], right[1:], strict=True):
            assert getattr(drawn, name)[i].item() == value, name
        with mp.workdps(60):
            kept, _ = cut(z, support(z), **({"min_p": 0.0, "top_k": 0, "top_p": 1.0} | exact_cuts))
        assert mask[i].nonzero()[:, 0].tolist() == sorted(kept)


def test_temperature_is_a_division_before():
    temperatures = torch.linspace(0.5, 2, ROWS)
    drawn = isologit.sample_of_logits(rows(), temperature=temperatures, top_p=0.9, **KEYS)
    assert same_results(drawn, isologit.sample_of_logits(rows() / temperatures[:, None], top_p=0.9, **KEYS))
    greedy = isologit.sample_of_logits(rows(), temperature=0, top_p=0.1, **KEYS)
    assert greedy.ids.equal(rows().argmax(-1)) and (greedy.log_kept_cut == 0).all()


def test_draws_of_a_heads_logits_are_those_of_sample():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 16, generator=generator).bfloat16() for n in (ROWS, VOCAB))
    of_head = isologit.sample(hidden, weight, temperature=0.7, top_p=0.9, **KEYS)
    assert same_results(
        isologit.sample_of_logits(isologit.logits(hidden, weight), temperature=0.7, top_p=0.9, **KEYS), of_head
    )


def test_a_row_does_not_depend_on_its_batch():
    drawn = isologit.sample_of_logits(rows(), **KEYS, top_p=0.9, threads=3)
    for i in range(ROWS):
        keys = {"seed": SEED, "sequence_id": int(SEQUENCES[i]), "position": int(POSITIONS[i])}
        alone = isologit.sample_of_logits(rows()[i], **keys, top_p=0.9)
        assert all(same_bits(getattr(alone, name), getattr(drawn, name)[i]) for name in RESULTS)


def test_numpy_is_torch():
    drawn = isologit.sample_of_logits(rows(), **KEYS, min_p=0.01)
    keys = {"seed": SEED, "sequence_id": SEQUENCES.numpy(), "position": POSITIONS.numpy()}
    of_array = isologit.sample_of_logits(rows().numpy(), **keys, min_p=0.01)
    assert all(np.array_equal(getattr(of_array, name), getattr(drawn, name).numpy()) for name in RESULTS)
    mask = isologit.cut_mask_of_logits(rows().numpy()[:, ::2], top_k=3)
    assert mask.dtype == bool and torch.from_numpy(mask).equal(isologit.cut_mask_of_logits(rows()[:, ::2], top_k=3))


def test_report_and_compile():
    def ids(logits):
        return isologit.sample_of_logits(logits, **KEYS).ids

    assert torch.compile(ids, fullgraph=True, backend="eager")(rows()).equal(ids(rows()))
    report = isologit.sample_of_logits(rows(), **KEYS, kernel="portable").report
    assert (report.kernel, report.rows) == ("portable", ROWS)


def test_what_is_refused():
    keys = {"seed": 1, "sequence_id": 0, "position": 0}
    with pytest.raises(ValueError, match=r"logits: shape is \[\]; expected \[\.\.\., V\]"):
        isologit.sample_of_logits(torch.tensor(1.0), **keys)
    with pytest.raises(ValueError, match="logits: dtype is torch.float64"):
        isologit.sample_of_logits(rows().double(), **keys)
    with pytest.raises(ValueError, match=r"position: shape is \[3\]; expected a number, or \[8\]: one for each row"):
        isologit.sample_of_logits(rows(), seed=1, sequence_id=0, position=torch.arange(3))
    with pytest.raises(ValueError, match=r"top_p\[0\]: 1.5; expected"):
        isologit.cut_mask_of_logits(rows(), top_p=1.5)
