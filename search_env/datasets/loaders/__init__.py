"""One module for each published layout of questions and passages.

Each has ``parse_question(row)`` and, where its rows carry passages, ``parse_documents(row)``;
:mod:`search_env.datasets.detect` reads the files.
"""
