"""The sampling engine: images at their own steps, batched by mediator count, kept in folders that survive anything."""
