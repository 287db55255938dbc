"""What training needs: blocks that can run again for gradients, and the choice of layers."""
