"""Clustering: from embeddings to latent values."""

from pyjuice_bridge.cluster.assignments import Assignments
from pyjuice_bridge.cluster.cluster import cluster_embeddings
from pyjuice_bridge.cluster.kmeans import KMeansResult, assign, kmeans

__all__ = ["Assignments", "KMeansResult", "assign", "cluster_embeddings", "kmeans"]
