"""What a distillation leaves: the context set, its picture and card, and the classifier made of it."""
