//! The image service.

use proto::cri as v1;

use super::{Answer, Cri, spec};

impl Cri {
    /// PullImage without credentials.
    ///
    /// # Errors
    /// The server's.
    pub async fn pull(&self, image: &str) -> Answer<String> {
        self.pull_as(image, None).await
    }

    /// PullImage.
    ///
    /// # Errors
    /// The server's.
    pub async fn pull_as(&self, image: &str, auth: Option<v1::AuthConfig>) -> Answer<String> {
        let request = v1::PullImageRequest {
            image: Some(spec(image)),
            auth,
            sandbox_config: None,
        };
        Ok(self.images.clone().pull_image(request).await?.into_inner().image_ref)
    }

    /// ImageStatus: the image, or none.
    ///
    /// # Errors
    /// The server's.
    pub async fn image(&self, image: &str) -> Answer<Option<v1::Image>> {
        let request = v1::ImageStatusRequest {
            image: Some(spec(image)),
            verbose: false,
        };
        Ok(self.images.clone().image_status(request).await?.into_inner().image)
    }

    /// ListImages.
    ///
    /// # Errors
    /// The server's.
    pub async fn image_list(&self) -> Answer<Vec<v1::Image>> {
        Ok(self
            .images
            .clone()
            .list_images(v1::ListImagesRequest { filter: None })
            .await?
            .into_inner()
            .images)
    }

    /// RemoveImage.
    ///
    /// # Errors
    /// The server's.
    pub async fn remove_image(&self, image: &str) -> Answer<()> {
        self.images
            .clone()
            .remove_image(v1::RemoveImageRequest {
                image: Some(spec(image)),
            })
            .await
            .map(drop)
    }
}
