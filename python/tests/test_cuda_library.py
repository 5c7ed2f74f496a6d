"""The CUDA library by ctypes: what it is told, and what its errors become."""

import ctypes
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from isologit import _cuda  # noqa: E402


def test_what_the_library_is_told_of_draws():
    head = _cuda.Head(torch.ones(3, 8), torch.ones(5, 8))
    positions = torch.tensor([0, 2**31, 2**32 - 1])
    draws = _cuda.Draws(torch.tensor([-1]), torch.tensor([1, 2, 3]), positions, top_k=torch.tensor([4])).checked(head)
    fields = draws.fields()
    counts = [fields[f"{name}_count"] for name in ("seed", "sequence_id", "position", "min_p", "top_k")]
    assert counts == [1, 3, 3, 0, 1]
    assert draws.positions.numpy().view("uint32").tolist() == positions.tolist() and fields["min_p"] is None
    assert fields.keys() <= {name for name, _ in _cuda.SampleRequest._fields_}
    with pytest.raises(ValueError, match="top_p: torch.float64 on cpu; expected torch.float32 on cpu"):
        draws._replace(positions=positions, top_p=torch.ones(1, dtype=torch.float64)).checked(head)


@pytest.mark.parametrize(
    ("status", "error"),
    [(1, ValueError), (2, NotImplementedError), (3, RuntimeError), (5, torch.OutOfMemoryError)],
)
def test_errors_of_the_library(status, error):
    class Native:
        @staticmethod
        def isologit_cuda_self_test(device, arithmetic, message, size):
            message.value = b"what was found"
            return status

    native = object.__new__(_cuda.Library)
    native._library, native._tested = Native, set()
    with pytest.raises(error, match="what was found"):
        native.self_test(1)
    status = 0
    native.self_test(1)
    assert native._tested == {(1, "exact")}  # of this device; others are tested at their own first use
    native.self_test(0, "fast")
    assert native._tested == {(1, "exact"), (0, "fast")}


@pytest.mark.parametrize("name", ["weight", "bias", "out"])
def test_operands_of_several_devices_are_refused(name):
    operands = {"hidden": torch.ones(2, 8), "weight": torch.ones(5, 8), "bias": torch.ones(5), "out": torch.ones(2, 5)}
    operands[name] = operands[name].to("meta")
    with pytest.raises(ValueError, match=f"{name} is on meta and hidden on cpu; expected one device"):
        object.__new__(_cuda.Library).logits(**operands)


def test_out_of_memory_is_torchs_own_before_anything_is_launched(monkeypatch):
    """Results and workspace come from torch's allocator, and are there before the library is called."""
    launched = []
    native = object.__new__(_cuda.Library)
    native._tested = {(-1, "exact")}
    monkeypatch.setattr(_cuda.Library, "_call", lambda self, name, *_: launched.append(name))

    def full(*_, **__):
        raise torch.OutOfMemoryError("full")

    operands = torch.ones(2, 8), torch.ones(5, 8)
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        native.logits(*operands)
    assert launched in ([], ["isologit_cuda_logits_workspace"])


@pytest.fixture
def told(monkeypatch):
    """What the library is called with, and by which name."""
    calls = []
    native = object.__new__(_cuda.Library)
    native._tested = {(-1, "exact")}
    monkeypatch.setattr(_cuda.Library, "_call", lambda self, name, request: calls.append((name, request._obj)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    return native, calls


def members(structure):
    return [getattr(structure, name) for name, _ in structure._fields_]


def test_what_the_library_is_told_of_operators(told):
    native, calls = told
    x, a = torch.ones(6, 4, 8).bfloat16(), torch.ones(6, 4, 16).bfloat16()[:, :, :8]
    y, weight = torch.empty(6, 4, 8).bfloat16(), torch.ones(8)
    native.rms_norm(x, weight, 0.5, True, y)
    native.residual(x, a, None, 2.0, y)
    assert native.gate(a, x, 1, 3.0, 4.0, y) is None
    positions, frequencies = torch.arange(12)[::2], torch.ones(3)
    assert native.rotary(x, positions, frequencies, 1, 5.0, y).shape == (2,)
    assert [name.removeprefix("isologit_cuda_") for name, _ in calls] == ["rms_norm", "residual", "gate", "rotary"]
    norm, sum_, gate, rotary = (request for _, request in calls)
    for _, request in calls:
        assert request.struct_size == ctypes.sizeof(request) and (request.device, request.stream) == (-1, 7)
        assert members(request.y) == [y.data_ptr(), 32, 8]
    assert members(norm.x) == [x.data_ptr(), 6, 4, 8, 32, 8, 0]
    assert members(norm.weight) == [weight.data_ptr(), 8, 2] and (norm.epsilon, norm.one_plus_weight) == (0.5, 1)
    assert members(sum_.a) == [a.data_ptr(), 6, 4, 8, 64, 16, 0] and sum_.b.data is None and sum_.multiplier == 2.0
    assert (gate.gate.data, gate.up.data) == (a.data_ptr(), x.data_ptr())
    assert (gate.kind, gate.alpha, gate.limit, gate.status) == (1, 3.0, 4.0, None)
    assert (rotary.frequencies, rotary.frequency_count) == (frequencies.data_ptr(), 3)
    assert (rotary.layout, rotary.factor) == (1, 5.0) and rotary.status


def test_which_gates_have_a_status(told):
    native, _ = told
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        g = torch.ones(1, 1, 8, dtype=dtype)
        has = [native.gate(g, None, kind, 1.0, 1.0, g.clone()) is not None for kind in range(4)]
        assert has == [dtype == torch.float32, dtype == torch.float32, False, True]


@pytest.mark.parametrize("paged", [False, True])
def test_what_the_library_is_told_of_attention(told, monkeypatch, paged):
    native, calls = told
    sizes = []
    monkeypatch.setattr(native, "_workspace", lambda *of: sizes.append(of) or torch.empty(48, dtype=torch.uint8))
    q, y = torch.ones(6, 4, 16).bfloat16()[:, :, :8], torch.empty(6, 4, 5).bfloat16()
    keys, values = torch.ones(9, 2, 8).bfloat16(), torch.ones(9, 2, 5).bfloat16()
    table, firsts = None, torch.tensor([1, 5])
    if paged:
        keys, values = torch.ones(3, 16, 2, 8).bfloat16(), torch.ones(3, 16, 2, 6).bfloat16()[..., :5]
        table, firsts = torch.zeros(2, 2, dtype=torch.int32), None
    starts, counts, sinks = torch.tensor([0, 2, 6]), torch.tensor([4, 4]), torch.ones(4)
    status = native.attention(q, keys, values, (starts, counts, firsts, table), sinks, (0.5, 30.0, True, 7), y)
    ((name, request),) = calls
    assert name == "isologit_cuda_attention" and request.struct_size == ctypes.sizeof(request)
    assert members(request.q) == [q.data_ptr(), 6, 4, 8, 64, 16, 0]
    slots, k_strides, v_strides = (48, (16, 8), (12, 6)) if paged else (9, (16, 8), (10, 5))
    assert members(request.keys) == [keys.data_ptr(), slots, 2, 8, *k_strides, 0]
    assert members(request.values) == [values.data_ptr(), slots, 2, 5, *v_strides, 0]
    assert (request.sequences, request.query_starts, request.key_counts) == (2, starts.data_ptr(), counts.data_ptr())
    places = (None, table.data_ptr()) if paged else (firsts.data_ptr(), None)
    assert (request.first_keys, request.block_table) == places
    of_pages = (request.blocks_per_sequence, request.block_size, request.key_block_stride, request.value_block_stride)
    assert of_pages == ((2, 16, 256, 192) if paged else (0, 0, 0, 0))
    assert (request.scale, request.softcap, request.not_causal, request.window) == (0.5, 30.0, 0, 7)
    assert (request.sinks, request.status) == (sinks.data_ptr(), status.data_ptr())
    assert members(request.y) == [y.data_ptr(), 20, 5]
    assert (request.workspace_size, sizes[0][0]) == (48, "attention") and request.workspace


def test_first_keys_and_integers_of_attention(told, monkeypatch):
    native, calls = told
    monkeypatch.setattr(native, "_workspace", lambda *_: torch.empty(0, dtype=torch.uint8))
    given = {}
    make = native._make

    def kept(of, y, **fields):
        for name in ("query_starts", "key_counts", "first_keys"):
            size = 3 if name == "query_starts" else 2
            given[name] = list((ctypes.c_int64 * size).from_address(fields[name]))
        make(of, y, **fields)

    monkeypatch.setattr(native, "_make", kept)
    x = torch.ones(6, 1, 8).half()
    lists = torch.tensor([0, 1, 6], dtype=torch.int32), torch.tensor([2, 4], dtype=torch.int32), None, None
    native.attention(x, x, x, lists, None, (1.0, 0.0, False, 0), torch.empty_like(x))
    assert given == {"query_starts": [0, 1, 6], "key_counts": [2, 4], "first_keys": [0, 2]}
    request = calls[0][1]
    assert (request.not_causal, request.sinks, request.workspace, request.workspace_size) == (1, None, None, 0)


def test_what_the_library_is_told_of_gradients_over_a_support(told, monkeypatch):
    native, calls = told
    native._tested.add((-1, "fast"))
    monkeypatch.setattr(native, "_workspace", lambda *_: torch.empty(48, dtype=torch.uint8))
    hidden, weight, ids = torch.ones(3, 8).bfloat16(), torch.ones(5, 8).bfloat16(), torch.zeros(3, 1, dtype=torch.int64)
    made = {"dhidden": torch.empty(3, 8), "d_mean_logits": torch.ones(3)}
    masks = torch.ones(3, 8, dtype=torch.bool)[:, :5]
    lists = [(torch.tensor([0, 1, 1, 2]), torch.tensor([2, 4])) for _ in range(2)]
    for support in ({"mask": masks}, {"mask": masks[:1]}, {"kept": lists[0], "banned": lists[1]}, {}):
        status = native.backward(_cuda.Head(hidden, weight), ids, **made, **support)
        name, request = calls.pop()
        assert name == "isologit_cuda_backward" and request.struct_size == ctypes.sizeof(request)
        stride = 8 if support.get("mask") is masks else 0
        pointer = masks.data_ptr() if "mask" in support else None
        assert (request.mask, request.mask_row_stride, request.status) == (pointer, stride, status.data_ptr())
        for name, given in (("kept", lists[0]), ("banned", lists[1])):
            right = [x.data_ptr() for x in given] if name in support else [None, None]
            assert members(getattr(request, name)) == right
        assert (request.d_mean_logits, request.dhidden.data) == tuple(made[x].data_ptr() for x in made)[::-1]
    with pytest.raises(ValueError, match=r"mask has shape \[2, 5\]; expected \[1, 5\] or \[3, 5\]"):
        native.backward(_cuda.Head(hidden, weight), ids, **made, mask=masks[:2])
