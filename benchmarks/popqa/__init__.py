"""PopQA: single facts about entities of all popularities (Mallen et al. 2023)."""
