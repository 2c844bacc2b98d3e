"""Fields of cells: their images, what is known of them, their intensities, their cells."""
