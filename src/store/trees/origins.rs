//! Which blobs a layer was seen to come from: an empty file `layers/<hex>/from-<hex of the blob>` for each.
//!
//! An image names blobs in its manifest and diff ids in its configuration, and whoever wrote them may have paired any
//! blob with the diff id of somebody else's layer. A tree that is there already is the image's only when the image's
//! blob inflates to it. That is found out once for each pair, while unpacking, while building, or by reading the blob.

use std::fs::File;
use std::path::PathBuf;

use crate::oci::{DiffId, Digest};
use crate::store::{io_error, Store, StoreError};

impl Store {
    fn origin_path(&self, diff_id: &DiffId, blob: &Digest) -> PathBuf {
        self.layer_folder(diff_id).join(format!("from-{}", blob.hex()))
    }

    /// Whether the blob is known to inflate to the layer.
    pub(in crate::store) fn is_origin(&self, diff_id: &DiffId, blob: &Digest) -> bool {
        self.origin_path(diff_id, blob).exists()
    }

    /// Remembers it, beside the tree.
    pub(in crate::store) fn add_origin(&self, diff_id: &DiffId, blob: &Digest) -> Result<(), StoreError> {
        let path = self.origin_path(diff_id, blob);
        File::create(&path).map(drop).map_err(io_error("create", &path))
    }
}
