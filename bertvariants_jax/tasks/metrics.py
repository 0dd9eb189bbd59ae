"""Metrics of classification and regression, through scikit-learn and scipy; all 0 to 1 (or -1 to 1)."""

from collections.abc import Callable

import numpy as np


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of class 1; 0 where there is no true positive."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, zero_division=0))


def micro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of all decisions together; 0 where there is no true positive."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="micro", zero_division=0))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean of the F1 of each class; 0 for one without a true positive."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    """0 where either is constant."""
    from sklearn.metrics import matthews_corrcoef

    constant = np.all(labels == labels[0]) or np.all(predictions == predictions[0])
    return 0.0 if constant else float(matthews_corrcoef(labels, predictions))


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """0 where either is constant, for there it is not defined."""
    from scipy.stats import pearsonr

    constant = np.ptp(labels) == 0 or np.ptp(predictions) == 0
    return 0.0 if constant else float(pearsonr(labels, predictions).statistic)


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Ties get their average rank; 0 where either is constant."""
    from scipy.stats import spearmanr

    constant = np.ptp(labels) == 0 or np.ptp(predictions) == 0
    return 0.0 if constant else float(spearmanr(labels, predictions).statistic)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy, "f1": f1, "micro_f1": micro_f1, "macro_f1": macro_f1, "matthews": matthews, "pearson": pearson, "spearman": spearman}
MULTI_LABEL = ("micro_f1", "macro_f1", "accuracy")     # those that take labels [n, classes]; accuracy is of whole rows
