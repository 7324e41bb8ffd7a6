"""What a log says of the model that a run ended with."""

from __future__ import annotations

from vecaf_hf.reporting.results import final_metrics, metric_rows


def test_a_test_under_several_conditions_is_told_without_its_times() -> None:
    history = [
        {"eval_accuracy": 0.5, "step": 4},
        {"train_runtime": 9.0, "step": 8},
        {"test_accuracy": 0.75, "test_runtime": 1.0, "step": 8},
        {"test_fog_accuracy": 0.25, "test_fog_runtime": 1.0, "test_fog_samples_per_second": 8.0, "step": 8},
        {"test_conditions_worst_accuracy": 0.25, "step": 8},
    ]
    metrics = final_metrics(history, None)
    assert metrics["test"] == {"accuracy": 0.75, "fog_accuracy": 0.25, "conditions_worst_accuracy": 0.25}
    assert ["fog accuracy", "-", "0.2500"] in metric_rows(metrics)
