//! Who answers for a mesh.

use super::{Answer, End, Mesh, Traffic};

/// Who decides in the place of the model.
pub trait Judge {
    /// What is decided of a flow; `None` where it cannot tell, as there is no such packet.
    ///
    /// # Errors
    /// Why nothing can be answered.
    fn judge(
        &mut self,
        mesh: &Mesh,
        from: &End,
        to: &End,
        traffic: Traffic,
    ) -> Result<Option<Answer>, String>;
}
