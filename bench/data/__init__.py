"""Scenes, the choice of their views, and the batches that training and evaluation see."""
