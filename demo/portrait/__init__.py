"""Portrait: faces drawn at 256 x 256, their captions, and the models that learn them."""
