"""Estimators in scikit-learn's sense, on any matrix of samples."""
