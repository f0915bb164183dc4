"""The names by which a direction knows the models that it fits."""

import pytest

from pack.tests.wiring import node


@pytest.mark.parametrize("way, expected", [("eps", "EPS"), ("lcm", "EPS"), ("x0", "X0"), ("v_prediction", "V_PREDICTION")])
def test_the_names_of_prediction_types_are_the_host_s(demo, way, expected):
    from pack.host.families import prediction_in_force

    assert prediction_in_force(node("model_advanced.ModelSamplingDiscrete", model=demo.model, sampling=way, zsnr=False)) == expected
    assert prediction_in_force(demo.model) == demo.model.model.model_type.name == "V_PREDICTION"
