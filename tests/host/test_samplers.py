"""What is known of sampler functions, by their own word or their names."""

import functools

import comfy.k_diffusion.sampling as sampling
import comfy.samplers
import pytest

from pack.core.sampling.steering import Traits
from pack.host.inversion import AlongPath
from pack.host.samplers import DDIM, KNOWN, EditedSampler, check_target, traits_of


def around(function):
    return EditedSampler(function, None, "x0", False, 0.0, 1.0, None)


def test_the_host_s_functions_are_known_and_the_table_names_no_others():
    functions = [comfy.samplers.sampler_object(name).sampler_function for name in comfy.samplers.SAMPLER_NAMES]
    assert all(traits_of(function).known for function in functions)
    assert set(KNOWN) <= {function.__name__ for function in functions} | set(vars(sampling))


def test_another_pack_s_function_goes_by_its_name_until_its_reports_confirm_it():
    def sample_heun(model, x, sigmas, **options): ...

    assert traits_of(sample_heun) == Traits(2, known=False)
    assert traits_of(lambda model, x, sigmas: x) == Traits(known=False)


def test_what_a_function_says_of_itself_counts_and_ours_are_seen_through():
    assert traits_of(DDIM(0.0, 1.0)) == Traits(first_order=True) == traits_of(around(around(DDIM(0.0, 1.0))))
    assert traits_of(around(sampling.sample_dpm_2)) == Traits(2)


def test_targets_and_known_samplers_are_checked():
    hidden = [comfy.samplers.sampler_object(name).sampler_function for name in ("sa_solver", "uni_pc", "dpm_fast", "dpm_adaptive")]
    for function in hidden:
        check_target("x0", function)
        with pytest.raises(ValueError, match="Choose target x0"):
            check_target("x_t", around(function))
    check_target("x_t", sampling.sample_euler)
    with pytest.raises(ValueError, match="target: got 'eps'"):
        check_target("eps", sampling.sample_euler)


@pytest.mark.parametrize("function", [DDIM(0.0, 1.0), AlongPath(None, ())])
def test_a_wrapper_that_keeps_the_name_of_one_of_ours_is_taken_for_first_order(function):
    @functools.wraps(function, assigned=["__name__"], updated=[])
    def wrapped(model, x, sigmas, **options):
        return function(model, x, sigmas, **options)

    assert traits_of(wrapped) == Traits(first_order=True, known=False)


def test_another_pack_s_ddim_is_taken_for_first_order():
    def sample_ddim(model, x, sigmas, **options): ...

    assert traits_of(sample_ddim) == Traits(first_order=True, known=False)
