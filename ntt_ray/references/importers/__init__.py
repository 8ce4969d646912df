"""What annotation tools write, as COCO files."""
