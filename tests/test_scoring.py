import torch

from ntt_ray.matching.scoring import best_class, similarities


def test_negative_similarities_are_cut():
    features = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    prototypes = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert similarities(features, prototypes).tolist() == [[1.0, 0.6000000238418579], [0.0, 0.0]]


def test_of_equal_scores_the_lower_class_wins():
    scores, labels = best_class(torch.tensor([[0.1, 0.7, 0.7], [0.0, 0.0, 0.0], [0.2, 0.1, 0.3]]))
    assert labels.tolist() == [1, 0, 2]
    assert [round(s, 6) for s in scores.tolist()] == [0.7, 0.0, 0.3]
