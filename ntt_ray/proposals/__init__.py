"""What SAM2 and DINOv2 find in an image whatever the classes are: kept, and matched again."""
