"""The packed sequence against step-by-step running."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr.model.recurrent import GRU, LSTM, _in_pieces


def step_by_step(core, x, carry, masks):
    out = []
    for t in range(len(x)):
        y, carry = core(x[t], carry, masks[t])
        out.append(y)
    return torch.stack(out), carry


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([GRU, LSTM]), st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 5), st.floats(0, 1))
def test_a_sequence_equals_its_steps_with_resets_anywhere(kind, seed, steps, num, share):
    torch.manual_seed(seed)
    core = kind(3, 4)
    x, carry = torch.randn(steps, num, 3), torch.randn(num, core.carry_size, requires_grad=True)
    masks = (torch.rand(steps, num) > share).float()
    expected, expected_carry = step_by_step(core, x, carry, masks)
    states, last = core(x, carry, masks)
    torch.testing.assert_close(states, expected)
    torch.testing.assert_close(last, expected_carry)

    weights = torch.randn_like(states)
    parameters = [*core.parameters(), carry]
    slow = torch.autograd.grad((expected * weights).sum(), parameters)
    fast = torch.autograd.grad((states * weights).sum(), parameters)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_reset_forgets_the_carry():
    core = GRU(3, 4)
    x = torch.randn(2, 3)
    forgotten, _ = core(x, torch.randn(2, 4), torch.zeros(2))
    fresh, _ = core(x, torch.zeros(2, 4), torch.ones(2))
    torch.testing.assert_close(forgotten, fresh)


def test_the_carry_of_an_lstm_is_what_it_gives_out_and_its_cell():
    core = LSTM(3, 4)
    x, carry = torch.randn(2, 3), torch.randn(2, 8)
    state, after = core(x, carry, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(after[:, :4], state)
    kept, cells = core.lstm(x[:1, None], (carry[None, :1, :4].contiguous(), carry[None, :1, 4:].contiguous()))
    torch.testing.assert_close(state[:1], kept[0])
    torch.testing.assert_close(after[:1, 4:], cells[1][0])
    torch.testing.assert_close(after[1:], core(x[1:], torch.zeros(1, 8), torch.ones(1))[1])


def test_weights_are_orthogonal_and_biases_zero():
    gru = GRU(6, 6).gru
    torch.testing.assert_close(gru.weight_hh_l0.T @ gru.weight_hh_l0, torch.eye(6))
    assert not gru.bias_hh_l0.any()
    assert not gru.bias_ih_l0.any()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 4), st.floats(0, 1))
def test_numpys_steps_and_torchs_packed_sequence_agree_in_values_and_gradients(seed, steps, num, share):
    torch.manual_seed(seed)
    core = GRU(3, 4)
    x, carry = torch.randn(steps, num, 3, requires_grad=True), torch.randn(num, 4, requires_grad=True)
    masks = (torch.rand(steps, num) > share).float()
    weights = torch.randn(steps, num, 4)
    fast, _ = core(x, carry, masks)
    slow, _ = _in_pieces(core._run, x, carry, masks)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)
    wanted = [x, carry, *core.parameters()]
    fast_grads = torch.autograd.grad((fast * weights).sum(), wanted)
    for a, b in zip(fast_grads, torch.autograd.grad((slow * weights).sum(), wanted), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
