"""The plain reference: the published description written down directly, with the field's usual calls and no tricks."""
