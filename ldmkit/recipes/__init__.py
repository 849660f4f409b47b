"""How the embedded models were trained: ``python -m ldmkit.recipes.NAME`` runs one again."""
